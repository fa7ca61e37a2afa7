"""The edge: adapters to the world outside, one file each. Nothing else imports flux."""
