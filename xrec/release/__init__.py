"""The public XRec release (github.com/HKUDS/XRec) as artifacts: dataset, graph and adapter."""
