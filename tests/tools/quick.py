"""`epoch` with a short wait before a deletion: `python -m tests.tools.quick serve ...`.

DELETE of a blob waits half a second for requests beside it (`epoch.garbage.pins`). Suites that
delete some hundred blobs one after another, with nothing beside it, would do nothing else.
"""

from epoch.cli.main import main
from epoch.garbage.pins import TIMES

for name, seconds in (("view", 0.02), ("announce", 0.05)):
    object.__setattr__(TIMES, name, seconds)  # frozen, and the default of many a parameter

if __name__ == "__main__":
    main()
