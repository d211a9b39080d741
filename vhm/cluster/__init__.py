"""What talks to Kubernetes."""
