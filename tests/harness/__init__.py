"""What tests share: engines, servers, apps, and the ways to drive them."""
