"""U²AD: uncertainty-based unsupervised anomaly detection of T2 hyperintensity in the cervical spinal cord."""

__version__ = "0.1.0"
