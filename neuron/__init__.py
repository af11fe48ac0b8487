"""B'MOJO on AWS Trainium: kernels in NKI and an emulator to run them without the hardware."""
