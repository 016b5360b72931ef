"""What the end-to-end tests stand on: a cluster, its images, what runs in it, and requests that never stop."""
