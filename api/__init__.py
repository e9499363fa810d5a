"""Answers: REST and WebSocket, accounts, proposals, the live relay."""
