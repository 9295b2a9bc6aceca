"""The algorithms, free of models, files and screens. Start reading at `mcts.py`."""
