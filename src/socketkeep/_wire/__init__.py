"""How the processes of one server talk: messages, channels, the scoreboard."""
