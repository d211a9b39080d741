"""Questions about images → answers: the engine that evaluation, serving and `vhm ask` share."""
