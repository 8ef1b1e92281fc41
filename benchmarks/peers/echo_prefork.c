/* Eight processes, each accepting and serving one connection after another. */
#include "echo.h"

#include <signal.h>
#include <sys/prctl.h>

int main(void)
{
    int listener = echo_listen();
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 8; i++) {
        if (fork())
            continue;
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        for (;;) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0)
                continue;
            echo_blocking(fd, fd);
            close(fd);
        }
    }
    pause();
}
