"""On ``PYTHONPATH``, lets a command believe in one core.

nnU-Net gives torch all cores there are when it runs on CPU. Two such processes side by side wait for each
other's threads in every convolution, and take minutes for seconds.
"""

import os

os.cpu_count = lambda: 1
