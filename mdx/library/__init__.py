"""What stands behind `mdx.App`: a willing program asks the hub, and goes by its own run's agent."""
