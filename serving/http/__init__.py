"""The HTTP edge: application, server, OpenAPI document and client."""
