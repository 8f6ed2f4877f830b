"""Jobs: what a run of a job file is beside a run: judged before it is published, on record, measured and told of."""
