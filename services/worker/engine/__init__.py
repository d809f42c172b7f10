"""The step loop in the process of rank 0, and the control process's hold on it."""
