"""The public XRec release (github.com/HKUDS/XRec): its dataset, its graph vectors and its converters, as our artifacts."""
