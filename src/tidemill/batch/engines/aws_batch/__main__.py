"""The program of the containers: `child ROOT SUBMISSION` scores shards, `commit ROOT SUBMISSION` publishes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence

from tidemill.batch.engines.aws_batch.child import Seat, score_share
from tidemill.batch.engines.aws_batch.commit import publish
from tidemill.batch.engines.aws_batch.leaving import Leaving
from tidemill.batch.engines.aws_batch.requests import GAVE_UP
from tidemill.errors import TidemillError

log = logging.getLogger("tidemill")


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """What a container does, and its exit code: GAVE_UP where another attempt is to go on, else an error's own."""
    try:
        part, root, number = arguments
        if part == "commit":
            publish(root)
            return 0
        leaving = Leaving()
        leaving.listen()
        return 0 if score_share(root, int(number), _seat(environment), leaving) else GAVE_UP
    except TidemillError as error:
        log.error("error: %s", error)
        return error.exit_code


def _seat(environment: Mapping[str, str]) -> Seat:
    """What AWS Batch says of this container; a plain job has no index."""
    return Seat(
        environment["AWS_BATCH_JOB_ID"],
        int(environment.get("AWS_BATCH_JOB_ARRAY_INDEX", "0")),
        int(environment["AWS_BATCH_JOB_ATTEMPT"]),
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s")
    sys.exit(main(sys.argv[1:], os.environ))
