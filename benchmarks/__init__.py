"""The benchmark: this project and its peers on the same problems, each solution certified by one judge."""
