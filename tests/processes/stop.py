"""One of the processes stops while the others wait for it."""

import os
import signal
import sys

from emotion_circuits import distributed
from emotion_circuits.errors import DataError, PeerError

try:
    with distributed.joined():
        distributed.least(1)
        if distributed.rank() == 1:
            if sys.argv[1] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("nothing to say")
        distributed.from_first("never heard")
except PeerError as error:
    sys.stdout.write(f"stopped by: {error}\n")
    sys.stdout.flush()
    raise
