"""`tulle up`, `tulle run` and `tulle demo`: apps, sidecars and a control plane on one machine."""
