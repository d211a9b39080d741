"""The resources that VHM creates in a Kubernetes cluster."""
