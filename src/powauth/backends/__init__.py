"""Where records live: the protocol (`base`) and the backends that ship with powauth."""
