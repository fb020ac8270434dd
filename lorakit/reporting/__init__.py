"""What runs came to, as numbers, words, tables and figures."""

import logging

# Where the home cannot be written, matplotlib advises at every start how to speed up its own: no news of ours.
logging.getLogger("matplotlib").addHandler(logging.NullHandler())
