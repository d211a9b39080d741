"""The commands of `vhm`, one module per group: each parses its arguments, calls one function, and prints.

options    options that several commands have, and how results are printed
data       sample, validate, data pack, data unpack, data index, data push, data pull
model      convert, assemble, warm-start, train
evaluate   evaluate, score, gate
serve      serve, ask, deploy
pipeline   pipeline run, pipeline compile, pipeline submit
"""
