"""What the node is compared with: tiny programs, each a process of its own."""
