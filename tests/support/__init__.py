"""What the tests share and no test is: models and bundles, data, streams, live runs, GPUs, machines."""
