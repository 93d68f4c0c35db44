"""What operators see of a running service: health, metrics, traces and alerts. Nothing here is imported before it is asked for."""
