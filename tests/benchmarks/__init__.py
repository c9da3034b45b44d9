"""The benchmark of the data path: ours, its peers and direct calls, side by side in one run. No part of the suite."""
