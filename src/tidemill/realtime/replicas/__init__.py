"""Several serving processes behind one address: supervisor, autoscaler, balancer."""
