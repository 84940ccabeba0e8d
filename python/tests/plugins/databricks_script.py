"""What a run does that needs no flytekit: ``SECONDS CODE``."""

import sys
import time

time.sleep(float(sys.argv[1]) if len(sys.argv) > 2 and sys.argv[1] != "x" else 0)
code = int(sys.argv[2]) if len(sys.argv) > 2 and sys.argv[2] != "x" else 0
print(f"ending with {code}")
sys.exit(code)
