"""What a run or a step would load when its first lead or object passes, loaded where processes are forked from instead.

It is imported beside the definitions (`assets.step_process.PRELOADED`) by the code server's fork server, by the fork
server of a run's steps and by a Celery worker before it forks its slots. A module that is imported late, or a file that
is read late, would cost each run its time again. What is there by then is no garbage, and no forked process looks
through it for any.

Sources: Python's *multiprocessing*, `set_forkserver_preload`, and *gc*, `freeze` ("if a process will fork() without
exec()"); pyarrow imports pandas at the first conversion of Python's values (`pyarrow.lib`, `_PandasAPIShim`).
"""

import gc

import pandas  # noqa: F401

from email_platform.adapters.object_store import load_client_data

load_client_data()
gc.collect()
gc.freeze()
