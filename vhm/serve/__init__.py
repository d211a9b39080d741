"""The serving room: a model directory in, answers over HTTP out.

engine      one model, many questions: batches, limits, streaming
predictor   KServe's V1 and V2 protocols
openai      chat completions
page.html   what a person sees at `/`
server      KServe's model server around them
client      asking an endpoint, and waiting for one
deploy      InferenceService manifests, and promotion on this machine
"""
