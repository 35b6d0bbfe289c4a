"""Control, the management service: enrollment, device CA, ticket authority. Small so far."""
