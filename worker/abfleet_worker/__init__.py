"""One model behind gRPC: alone it is a plain recommender service, behind a router it answers batches.

Knows nothing of experiments, users or the other versions.
"""
