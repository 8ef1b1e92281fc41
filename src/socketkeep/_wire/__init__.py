"""The talk of one server's processes: messages, channels, the scoreboard."""
