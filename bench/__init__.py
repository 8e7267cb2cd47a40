"""What `./impervious bench` runs. Nothing of the node's own code is in here: it is measured from outside."""
