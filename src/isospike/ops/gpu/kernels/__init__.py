"""What runs on the device, in the language of Triton: imported only once something is to run there."""
