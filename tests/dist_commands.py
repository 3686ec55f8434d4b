"""One process of several that run commands of isospike, one after the other: its argument is JSON, lists of words."""

import json
import os
import sys

from isospike.cli.app import main

for number, words in enumerate(json.loads(sys.argv[1])):
    os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[number]
    sys.argv = ["isospike", *words]
    try:
        main()
    except SystemExit as left:
        if left.code:
            raise
    sys.stdout.write("\f")  # between what one said and what the next says
