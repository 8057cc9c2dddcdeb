"""What a run will do, hold and take, told before a weight is loaded. Does not know how a step is taken."""
