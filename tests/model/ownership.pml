/* One connection: who serves it, who holds it, and what becomes of it when workers, keepers and the
 * guard die at any point.  docs/architecture.md, "The model", says where each part is in the code.
 *
 * What is atomic here no death can divide; deaths, and steps of others, come between any two.  A
 * process that has died takes no step any more; what it had is closed, and what it had not read goes
 * with it.  What has been sent to a channel outlives who sent it, but for what waits in the keeper's
 * own queue.
 *
 * Checked by tests/model (`make model`): with each MUTANT, too, and with TRACE, against real runs.
 */

#ifndef WORKERS
#define WORKERS 3
#endif
#ifndef KEEPERS
#define KEEPERS 3
#endif
#ifndef WORKER_DEATHS
#define WORKER_DEATHS 2
#endif
#ifndef GUARD_DEATHS
#define GUARD_DEATHS 1
#endif
#ifndef LAST_EPOCH
#define LAST_EPOCH 4
#endif
#define NOBODY WORKERS

/* What is wrong in a mutant, each of which the check must reject. */
#define IGNORES_EPOCHS 1  /* the next keeper goes by the handoff, though a row is of a later epoch */
#define CLOSES_EARLY 2    /* a worker lets go of its handle before the keeper says that it has one */
#define FORGETS 3         /* the guard lets go of what it gives to a keeper */
#define FENCES_NOT 4      /* workers that do not come to the next keeper live on */
#define REAPS_NOT 5       /* a worker that hangs is taken for dead, and lives on */
#define TWO_KEEPERS 6     /* the guard starts a keeper while another one lives */
#define UNDOES_TAKEN 7    /* a worker without a keeper goes on with what its row says was taken */
#define TAKES_UNSTORED 8  /* the row says that it was taken before the guard has the handoff */
#define COMES_DEAF 9      /* a worker comes to the next keeper before it has read all */
#define WAKES_UNTOLD 10   /* a parked connection is sent while it is stored as parked */
#define JUDGES_LIVING 11  /* the next keeper takes workers that live for dead */
#define DROPS_UNSAID 12   /* a worker lets go of what it cannot say that it has */
#define FREES_EARLY 13    /* a dead worker's row is freed before another has the connection */
#define BEGINS_EMPTY 14   /* another guard holds nothing yet when the keeper says that it is guarded */
#define DATES_LATE 15     /* another guard has the handoff as of a lease that is only on its way */
#define MUTANT mutant
byte mutant;  /* which one this is, by the environment variable MUTANT; 0: none */

mtype:where = { unknown, owned, moving, parked, orphaned, closing, closed };
mtype:event = { DETACHED, PARKED, ENDED, OWNER_DIED, WOKEN, RESUMED, CONDEMNED, ASSIGNED, ATTACHED,
                REFUSED, RECEIVER_DIED, EXPIRED, IDLE, STOPPED, DRAINED };
mtype:said = { Keep, Detached, Parks, Attached, Refused, Ended, Attach, Taken, NotTaken, Retire,
               Reaped, Began };
mtype:does = { nothing, entering, serving, leaving, offering, ending };
mtype:row = { free, live, gone, taken, over };

/* The connection: how many descriptors of it there are, in processes and on their way; whether
 * somebody who may has ended it; whether the guard or a keeper has said that it holds it. */
byte handles = 1;
bool ended, promised;

chan to_worker[WORKERS] = [3] of { mtype:said, byte };
chan to_keeper[WORKERS] = [4] of { mtype:said, byte };

/* Workers; their rows outlive them. */
bool alive[WORKERS], alone[WORKERS], retired[WORKERS], offered[WORKERS], has[WORKERS];
mtype:does does[WORKERS];
byte boss[WORKERS];  /* which keeper it is a worker of; 0: it has not begun */
mtype:row row_ended[WORKERS];
byte row_epoch[WORKERS];
bool row_clean[WORKERS];

/* The guard, and what it has of the connection. */
bool guard_alive = true, stored, vowed, handoff_parked;  /* vowed: the keeper was told that it is stored */
byte handoff;  /* its epoch; 0: there is none */
bool late;  /* it is of an epoch that it should not be of */

/* Keepers, one after another; only the last one can be alive. */
byte keepers = 1;
bool keeps[KEEPERS + 1];  /* it is alive */
bool holds[KEEPERS + 1];  /* it has a handle */

/* How often these die, and how often the connection is given: by environment variables, too. */
byte worker_deaths = WORKER_DEATHS, guard_deaths = GUARD_DEATHS, last_epoch = LAST_EPOCH;

mtype:where where_is[KEEPERS + 1];  /* the connection, as each knows it */
#define state where_is[me]

#define SERVED_BY(n) (alive[n] && does[n] == serving)
#define LEFT_BY(n) (!alive[n] && row_ended[n] == gone)
#if WORKERS == 2
#define EACH(what) what(0) what(1)
#define LEFT_BY_THE_DEAD (LEFT_BY(0) || LEFT_BY(1))
#define SERVED (SERVED_BY(0) || SERVED_BY(1))
#elif WORKERS == 3
#define EACH(what) what(0) what(1) what(2)
#define LEFT_BY_THE_DEAD (LEFT_BY(0) || LEFT_BY(1) || LEFT_BY(2))
#define SERVED (SERVED_BY(0) || SERVED_BY(1) || SERVED_BY(2))
#elif WORKERS == 4
#define EACH(what) what(0) what(1) what(2) what(3)
#define LEFT_BY_THE_DEAD (LEFT_BY(0) || LEFT_BY(1) || LEFT_BY(2) || LEFT_BY(3))
#define SERVED (SERVED_BY(0) || SERVED_BY(1) || SERVED_BY(2) || SERVED_BY(3))
#else
#define EACH(what) what(0) what(1) what(2) what(3) what(4) what(5)
#define LEFT_BY_THE_DEAD (LEFT_BY(0) || LEFT_BY(1) || LEFT_BY(2) || LEFT_BY(3) || LEFT_BY(4) || \
                          LEFT_BY(5))
#define SERVED (SERVED_BY(0) || SERVED_BY(1) || SERVED_BY(2) || SERVED_BY(3) || SERVED_BY(4) || \
                SERVED_BY(5))
#endif

/* What comes after its end is looked at in traces alone. */
#ifdef TRACE
#define GOES_ON true
#else
#define GOES_ON !ended
#endif
#define lives (alive[me] && GOES_ON)
#define runs (keeps[me] && GOES_ON)

#ifdef TRACE  /* what keepers have seen in a real run, in this order and no other */
c_decl {
    enum { seen_began = 1, seen_reaped = 2, seen_attach = 6, seen_ended, seen_refused, seen_attached,
           seen_parks, seen_detached, seen_keep };
    int events[4096][3], event_count, furthest;
    int says[4096][8];  /* by what is next: the next thing heard of a worker; any_thing: or nothing */
    enum { any_thing = 99 };
};
short next;
chan saw = [0] of { mtype:said, byte, byte };
#define SAW(what, whom, number) saw!what, whom, number
#define NEXT_IS(what, n) c_expr { events[now.next][0] == what && events[now.next][1] == n }
#define HEARS(n) c_expr { events[now.next][0] > seen_attach && events[now.next][1] == n }
/* A worker says the next thing when the one before has been heard; what a keeper that has died has
 * not heard is not seen. */
#define MAY_SAY(n, what) (len(to_keeper[n]) == 0 && \
    c_expr { says[now.next][n] == what || says[now.next][n] == any_thing })
#define I_MAY_SAY(what) (len(to_keeper[me]) == 0 && \
    c_expr { says[now.next][PWorker->me] == what || says[now.next][PWorker->me] == any_thing })
#define FREE false
#else
#define SAW(what, whom, number)
#define NEXT_IS(what, n) true
#define HEARS(n) true
#define MAY_SAY(n, what) true
#define I_MAY_SAY(what) true
#define FREE true
#endif

inline drop() {
    handles--;
    if
    :: handles == 0 && !ended -> assert(!promised); ended = true
    :: else
    fi
}

inline end_it() {
    assert(!SERVED);  /* by whom it was not given up */
    ended = true
}

inline serve(worker) {
    assert(!SERVED);  /* never two owners that write */
    does[worker] = serving
}

inline unstore() {
    handoff = 0; vowed = false;
    if
    :: stored -> stored = false; drop()
    :: else
    fi
}

/* A process has died, or is killed: what it has is closed, and what it was sent and has not read. */
inline kill(victim) {
    alive[victim] = false;
    if
    :: does[victim] == serving -> row_clean[victim] = false  /* in the middle of a message */
    :: true
    fi;
    does[victim] = nothing; offered[victim] = false; retired[victim] = false;
    if
    :: has[victim] -> has[victim] = false; drop()
    :: else
    fi;
    do
    :: to_worker[victim]?Attach, _ -> drop()
    :: to_worker[victim]?Taken, _
    :: to_worker[victim]?NotTaken, _
    :: to_worker[victim]?Retire, _
    :: len(to_worker[victim]) == 0 -> break
    od
}

/* A message that a worker sends, with a descriptor or without. */
inline say(worker, message, number, descriptors) {
    if
    :: keeps[boss[worker]] -> to_keeper[worker]!message, number; handles = handles + descriptors
    :: else  /* EPIPE */
    fi
}

proctype Worker(byte me) {
    mtype:said message;
    byte epoch;

    do
    :: atomic { lives && !alone[me] && does[me] != entering && len(to_worker[me]) > 0 &&
                len(to_keeper[me]) < 4 ->
        to_worker[me]?message, epoch;
        if
        :: message == Attach && does[me] == nothing && !retired[me] ->
            has[me] = true;
            row_epoch[me] = epoch; row_clean[me] = true; row_ended[me] = live;
            does[me] = entering
        :: message == Attach && !(does[me] == nothing && !retired[me]) ->
            drop();
            say(me, Refused, epoch, 0)
        :: message == Taken && does[me] == offering ->
            has[me] = false; row_ended[me] = free; does[me] = nothing; drop()
        :: message == NotTaken && does[me] == offering ->
            row_ended[me] = live; serve(me)
        :: message == Retire -> retired[me] = true
        :: else
        fi;
        message = Began; epoch = 0 }

    /* Before it reads a byte. */
    :: atomic { lives && does[me] == entering && len(to_keeper[me]) < 4 && I_MAY_SAY(seen_attached) ->
        offered[me] = true;
        if
        :: MUTANT == DROPS_UNSAID && !keeps[boss[me]] ->
            has[me] = false; does[me] = nothing; drop()
        :: else ->
            say(me, Attached, row_epoch[me], 0);
            serve(me)
        fi }

    :: atomic { lives && does[me] == serving && !offered[me] && !alone[me] &&
                len(to_keeper[me]) < 4 && I_MAY_SAY(seen_keep) ->
        offered[me] = true;
        say(me, Keep, row_epoch[me], 1) }

    /* It gives the connection up, or has it parked. */
    :: atomic { lives && does[me] == serving && !alone[me] &&
                (I_MAY_SAY(seen_detached) || I_MAY_SAY(seen_parks)) ->
        does[me] = leaving; row_ended[me] = gone }
    :: atomic { lives && does[me] == leaving && !alone[me] && len(to_keeper[me]) < 4 ->
        if
        :: retired[me] -> say(me, Detached, row_epoch[me], 1)
        :: !retired[me] -> say(me, Parks, row_epoch[me], 1)
        fi;
        if
        :: MUTANT == CLOSES_EARLY -> has[me] = false; row_ended[me] = free; does[me] = nothing; drop()
        :: else -> does[me] = offering
        fi }

    /* It ends it. */
    :: atomic { lives && does[me] == serving && I_MAY_SAY(seen_ended) ->
        does[me] = ending; row_ended[me] = over; ended = true; has[me] = false; drop() }
    :: atomic { lives && does[me] == ending && !alone[me] && len(to_keeper[me]) < 4 ->
        if
        :: offered[me] -> say(me, Ended, row_epoch[me], 0)
        :: else
        fi;
        row_ended[me] = free; does[me] = nothing }

    /* Its keeper has gone, and it has read all that there was of it. */
    :: atomic { lives && !alone[me] && does[me] != entering && !keeps[boss[me]] &&
                (len(to_worker[me]) == 0 || MUTANT == COMES_DEAF) ->
        alone[me] = true; retired[me] = false;
        if
        :: (does[me] == leaving || does[me] == offering) &&
           row_ended[me] == taken && MUTANT != UNDOES_TAKEN ->
            has[me] = false; row_ended[me] = free; does[me] = nothing; drop()
        :: (does[me] == leaving || does[me] == offering) &&
           !(row_ended[me] == taken && MUTANT != UNDOES_TAKEN) ->
            row_ended[me] = live; serve(me)
        :: else
        fi }
    od
}

/* The table of `_keeper/tables/_ownership.py`, which a test compares. */
inline step(event) {
    if
    :: state == owned && event == DETACHED -> state = moving
    :: state == owned && event == PARKED -> state = parked
    :: state == owned && event == ENDED -> state = closed
    :: state == owned && event == OWNER_DIED -> state = orphaned
    :: state == owned && event == REFUSED -> state = moving
    :: state == owned && event == RECEIVER_DIED -> state = moving
    :: state == orphaned && event == RESUMED -> state = moving
    :: state == orphaned && event == CONDEMNED -> state = closing
    :: state == parked && event == WOKEN -> state = moving
    :: state == parked && event == IDLE -> state = closing
    :: state == parked && event == STOPPED -> state = closing
    :: state == moving && event == ASSIGNED -> state = moving
    :: state == moving && event == ATTACHED -> state = owned
    :: state == moving && event == REFUSED -> state = moving
    :: state == moving && event == RECEIVER_DIED -> state = moving
    :: state == moving && event == EXPIRED -> state = closing
    :: state == moving && event == STOPPED -> state = closing
    :: state == closing && event == DRAINED -> state = closed
    :: else -> assert(false)
    fi
}

/* Another has the connection, or it has ended: nobody goes by the row that a dead owner left. */
inline free_row() {
    if
    :: told != NOBODY -> row_ended[told] = free; told = NOBODY
    :: else
    fi
}

inline forget() {
    unstore(); free_row();
    if
    :: holds[me] -> holds[me] = false; drop()
    :: else
    fi;
    state = unknown; epoch = 0; who = NOBODY
}

/* Its owner is dead: by the row that it has left. */
inline judge() {
    if
    :: row_ended[who] == over || row_ended[who] == free -> step(ENDED); forget()
    :: else ->
        step(OWNER_DIED);
        if
        :: row_clean[who] -> step(RESUMED)
        :: else -> step(CONDEMNED)
        fi;
        who = NOBODY
    fi
}

inline hold() {
    holds[me] = true; promised = true
}

inline store_handle() {
    if
    :: guard_alive && !stored -> stored = true; vowed = true; handles++
    :: else
    fi
}

inline store_anew() {
    if
    :: holds[me] && state != closing ->
        store_handle();
        if
        :: state == moving || state == parked ->
            store_handoff();
            late = (MUTANT == DATES_LATE && who != NOBODY);
            if
            :: who != NOBODY && !late -> handoff--  /* of the lease before the one on its way */
            :: else
            fi;
            free_row()
        :: else
        fi
    :: else
    fi
}

/* What is said of it while no worker has it. */
inline store_handoff() {
    if
    :: guard_alive -> handoff = epoch; handoff_parked = (state == parked)
    :: else
    fi
}

#define COMES_LATE(n) \
    :: atomic { runs && me > 1 && alive[n] && alone[n] -> boss[n] = me; alone[n] = false }
#define BEGIN(n) \
    :: atomic { runs && boss[n] == 0 && boss[(n + WORKERS - 1) % WORKERS] != 0 && NEXT_IS(seen_attach, n) -> boss[n] = me; alive[n] = true; run Worker(n) }
#define RETIRE(n) \
    :: atomic { runs && boss[n] == me && !reaped[n] && !retired[n] && len(to_worker[n]) == 0 && \
                (!FREE || (n + 1 < WORKERS && boss[(n + 1) % WORKERS] != 0)) && \
                (MAY_SAY(n, seen_detached) || MAY_SAY(n, seen_refused)) -> \
        to_worker[n]!Retire, 0 }
#define HEAR(n) \
    :: atomic { runs && boss[n] == me && len(to_keeper[n]) > 0 && HEARS(n) -> \
        from = n }; goto hear
#define REAP(n) \
    :: atomic { runs && boss[n] == me && !alive[n] && !reaped[n] && len(to_keeper[n]) == 0 && \
                NEXT_IS(seen_reaped, n) -> \
        reaped[n] = true; from = n }; goto reap
#define GIVE(n) \
    :: atomic { runs && state == moving && who == NOBODY && epoch < last_epoch && \
                boss[n] == me && !reaped[n] && len(to_worker[n]) < 3 && NEXT_IS(seen_attach, n) -> \
        step(ASSIGNED); epoch++; who = n; \
        if \
        :: alive[n] -> to_worker[n]!Attach, epoch; handles++ \
        :: else \
        fi; \
        SAW(Attach, n, epoch) }

proctype Keeper(byte me) {
    byte epoch, who = NOBODY, told = NOBODY;  /* told: whose row says how far it is */
    bool reaped[WORKERS], by_row, known;
    mtype:said message;
    byte number, from, n;

    if
    :: me == 1 -> goto ready
    :: else
    fi;

    /* Who has come by now; others come later, or not at all. */
    for (n : 0 .. WORKERS - 1) {
        atomic { runs ->
            if
            :: alive[n] && alone[n] -> boss[n] = me; alone[n] = false
            :: true
            fi }
    }
    /* One that has not come may have been sent the connection, and would read that some time. */
    atomic { runs ->
        if
        :: ((handoff && !handoff_parked) || LEFT_BY_THE_DEAD) && MUTANT != FENCES_NOT ->
            for (n : 0 .. WORKERS - 1) {
                if
                :: alive[n] && boss[n] != me -> kill(n)
                :: else
                fi
            }
        :: else
        fi;
        n = 0;
        SAW(Began, 0, 0) }
    /* The row of its last owner, or the handoff, whichever is of the later epoch. */
    atomic { runs ->
        for (n : 0 .. WORKERS - 1) {
            if
            :: row_ended[n] != free && row_epoch[n] > number -> who = n; number = row_epoch[n]
            :: else
            fi
        }
        if
        :: who == NOBODY -> by_row = false
        :: else ->
            by_row = !handoff || (MUTANT != IGNORES_EPOCHS && (number > handoff ||
                (alive[who] && (row_ended[who] == live || row_ended[who] == gone))))
        fi;
        assert(by_row || !stored || !late || number < handoff);  /* none has served it since */
        if
        :: !stored -> who = NOBODY
        :: stored && !by_row ->
            who = NOBODY;
            if
            :: handoff ->
                state = (handoff_parked -> parked : moving);
                epoch = handoff; hold(); handles++
            :: else -> assert(ended); unstore()  /* its worker has ended it: there is no other way here */
            fi
        :: stored && by_row ->
            if
            :: alive[who] && MUTANT != JUDGES_LIVING && boss[who] != me ->
                promised = false; who = NOBODY; unstore()  /* it is left to its worker */
            :: alive[who] && MUTANT != JUDGES_LIVING && boss[who] == me ->
                state = owned; epoch = number; hold(); handles++
            :: else ->
                state = owned; epoch = number; hold(); handles++;
                reaped[who] = true; judge()
            fi
        fi;
        if
        :: MUTANT == FORGETS && stored -> stored = false; drop()
        :: else
        fi;
        n = 0; number = 0; by_row = false }
    atomic { runs ->
        if
        :: state == moving || state == parked -> store_handoff()
        :: state == owned -> handoff = 0
        :: else
        fi };

ready:
    do
    EACH(BEGIN)
    EACH(COMES_LATE)
    EACH(RETIRE)
    EACH(HEAR)
    EACH(REAP)
    EACH(GIVE)
    :: atomic { runs && MUTANT == REAPS_NOT && state == owned -> judge(); store_handoff() }
    :: atomic { runs && state == parked -> step(WOKEN) };
        atomic { runs ->
            if
            :: handoff && MUTANT != WAKES_UNTOLD -> handoff_parked = false
            :: else
            fi }
    :: atomic { runs && FREE && state == parked -> step(IDLE) }
    :: atomic { runs && FREE && state == parked -> step(STOPPED) }
    :: atomic { runs && FREE && state == moving && who == NOBODY -> step(EXPIRED) }
    :: atomic { runs && FREE && state == moving && who == NOBODY -> step(STOPPED) }
    :: atomic { runs && state == closing -> step(DRAINED); end_it(); forget() }
    /* The guard has died: another one begins with all that is kept. */
    :: atomic { runs && !guard_alive && MUTANT != BEGINS_EMPTY -> guard_alive = true; store_anew() }
    :: atomic { runs && !guard_alive && MUTANT == BEGINS_EMPTY -> guard_alive = true; vowed = holds[me] };
        atomic { runs -> store_anew() }
    od;

hear:
    atomic { runs ->
        to_keeper[from]?message, number;
        SAW(message, from, number);
        known = holds[me];  /* what comes is another handle then, or none */
        if
        :: message == Keep ->
            if
            :: !known && row_epoch[from] == number && row_ended[from] != free ->
                state = owned; epoch = number; who = from; hold()
            :: else -> drop()
            fi
        :: message == Detached || message == Parks ->
            if
            :: known && (who != from || epoch != number || state != owned) ->
                drop(); message = Refused; to_worker[from]!NotTaken, number
            :: else ->
                if
                :: known -> drop()
                :: else -> state = owned; epoch = number; hold()
                fi;
                if
                :: message == Detached -> step(DETACHED)
                :: else -> step(PARKED)
                fi;
                who = NOBODY; message = Detached
            fi
        :: message == Attached ->
            if
            :: state == moving && who == from && epoch == number -> step(ATTACHED)
            :: else -> message = Began
            fi
        :: message == Refused ->
            if
            :: state == moving && who == from && epoch == number -> step(REFUSED); who = NOBODY
            :: else
            fi
        :: message == Ended ->
            if
            :: state == owned && who == from && epoch == number -> step(ENDED); forget()
            :: else
            fi
        fi;
        known = false };
    if
    :: message == Keep -> atomic { runs -> store_handle() }
    :: message == Attached -> atomic { runs -> store_handle(); handoff = 0; free_row() }
    :: message == Detached ->
        if
        :: MUTANT == TAKES_UNSTORED -> atomic { runs -> row_ended[from] = taken }
        :: else
        fi;
        atomic { runs -> store_handle(); store_handoff() };
        atomic { runs -> row_ended[from] = (row_ended[from] == gone -> taken : row_ended[from]) };
        atomic { runs -> to_worker[from]!Taken, number }
    :: else
    fi;
    atomic { from = 0; number = 0; message = Began };
    goto ready;

reap:
    /* What it had said was heard first. */
    atomic { runs ->
        SAW(Reaped, from, 0);
        if
        :: who == from && state == moving -> step(RECEIVER_DIED); who = NOBODY; row_ended[from] = free
        :: who == from && state == owned ->
            judge();
            if
            :: state == moving && stored -> told = from; row_ended[from] = gone
            :: else
            fi;
            if
            :: MUTANT == FREES_EARLY -> free_row()
            :: else
            fi
        :: else
        fi };
    atomic { runs ->
        if
        :: state == moving && told == NOBODY && MUTANT != FREES_EARLY -> store_handoff()
        :: else
        fi;
        from = 0 };
    goto ready
}

/* What a keeper has heard and not answered goes with it, and what waited in its queue to be sent. */
inline end_keeper(k) {
    keeps[k] = false;
    promised = vowed;
    for (n : 0 .. WORKERS - 1) {
        if
        :: boss[n] == k ->
            do
            :: to_keeper[n]?Keep, _ -> drop()
            :: to_keeper[n]?Detached, _ -> drop()
            :: to_keeper[n]?Parks, _ -> drop()
            :: to_keeper[n]?Attached, _
            :: to_keeper[n]?Refused, _
            :: to_keeper[n]?Ended, _
            :: len(to_keeper[n]) == 0 -> break
            od;
            left = len(to_worker[n]); unsent = false;
            do
            :: left > 0 ->
                left--;
                to_worker[n]?message, number;
                if
                :: !unsent -> to_worker[n]!message, number
                :: true ->
                    unsent = true;
                    if
                    :: message == Attach -> drop()
                    :: else
                    fi
                fi
            :: else -> break
            od
        :: else
        fi
    }
    if
    :: holds[k] -> holds[k] = false; drop()
    :: else
    fi;
    n = 0; left = 0; unsent = false; message = Began; number = 0
}

#define DIE(n) \
    :: atomic { GOES_ON && worker_deaths > 0 && alive[n] && MAY_SAY(n, 0) -> worker_deaths--; kill(n) }

proctype Death() {
    byte n, left, number;
    bool unsent;
    mtype:said message;

    do
    EACH(DIE)
    :: atomic { GOES_ON && keeps[keepers] && (keepers < KEEPERS || MUTANT == FORGETS) &&
                NEXT_IS(seen_began, 0) ->
        end_keeper(keepers) }
    od
}

/* The guard starts a keeper where one has died, and dies itself. */
proctype Guard() {
    do
    :: atomic { GOES_ON && guard_alive && keepers < KEEPERS && (!keeps[keepers] || MUTANT == TWO_KEEPERS) ->
        keepers++; keeps[keepers] = true; run Keeper(keepers) }
    :: atomic { GOES_ON && guard_alive && guard_deaths > 0 ->
        guard_deaths--; guard_alive = false; handoff = 0; vowed = false;
        promised = keeps[keepers] && holds[keepers];
        if
        :: stored -> stored = false; drop()
        :: else
        fi }
    od
}

#ifndef TRACE
/* When nothing more happens somebody serves the connection, or is to: it was not only held. */
proctype Quiet() {
    timeout ->
    assert(ended || SERVED || where_is[keepers] == moving || where_is[keepers] == parked ||
           !keeps[keepers])
}
#endif

#ifdef TRACE
/* Takes what keepers see, if it is what the trace has next. */
proctype Trace() {
    mtype:said what;
    byte whom, number;

    do
    :: atomic { saw?what, whom, number ->
        c_expr { PTrace->what == events[now.next][0] && PTrace->whom == events[now.next][1]
                 && PTrace->number == events[now.next][2] } ->
        c_code {
            if (++now.next > furthest) { furthest = now.next; printf("shown %d\n", furthest); }
        };
        what = Began; whom = 0; number = 0;
        assert(c_expr { now.next < event_count }) }  /* all of it has been shown */
    od
}
#endif

init {
    byte n;
    atomic {
#ifdef TRACE
        c_code {
            FILE *file = fopen("trace", "r");
            while (fscanf(file, "%d %d %d", events[event_count], events[event_count] + 1,
                          events[event_count] + 2) == 3)
                event_count++;
            fclose(file);
            for (int at = event_count - 1; at >= 0; at--) {
                memcpy(says[at], says[at + 1], sizeof(says[at]));
                if (events[at][0] == seen_began)
                    for (int each = 0; each < 8; each++)
                        says[at][each] = any_thing;
                if (events[at][0] > seen_attach)
                    says[at][events[at][1]] = events[at][0];
            }
        };
#endif
        c_code {
            if (getenv("MUTANT")) now.mutant = atoi(getenv("MUTANT"));
            if (getenv("WORKER_DEATHS")) now.worker_deaths = atoi(getenv("WORKER_DEATHS"));
            if (getenv("GUARD_DEATHS")) now.guard_deaths = atoi(getenv("GUARD_DEATHS"));
            if (getenv("LAST_EPOCH")) now.last_epoch = atoi(getenv("LAST_EPOCH"));
        };
        for (n : 0 .. WORKERS - 1) { row_ended[n] = free; does[n] = nothing };
        for (n : 0 .. KEEPERS) { where_is[n] = unknown };
        keeps[1] = true;
        boss[0] = 1; alive[0] = true; has[0] = true; does[0] = serving;
        row_ended[0] = live; row_epoch[0] = 1; row_clean[0] = true;
        run Worker(0); run Keeper(1); run Guard(); run Death();
#ifdef TRACE
        run Trace()
#else
        run Quiet()
#endif
    }
}
