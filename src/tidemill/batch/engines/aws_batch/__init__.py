"""Runs on AWS Batch: an array job whose children score shards, and a job after it that commits.

`submit.py` and `jobs.py` are the user's side and speak to AWS; `__main__.py` is the program of the containers, which
speaks only to the stores.
"""
