"""The same sweep by sweeper and by four tools that are used for such sweeps, each as its documentation shows."""
