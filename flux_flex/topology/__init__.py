"""Where the hosts sit in AWS: read it from EC2, write it where schedulers can use it, draw it."""
