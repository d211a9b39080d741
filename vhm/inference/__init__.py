"""Questions about images → answers: the one engine under evaluation, serving and `vhm ask`."""
