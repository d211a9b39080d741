"""A model directory in, answers over HTTP out.

predictor   KServe's V1 and V2 protocols
openai      chat completions
page.html   the web page at `/`
server      KServe's model server with these routes, request limits and the page
client      a client for an endpoint, and a local server as a context manager
golden      golden questions asked of a model served on this machine

Batches and streaming are in `vhm.inference.scheduler`.
"""
