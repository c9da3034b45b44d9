"""What any server process needs: its flags, logs, memory, files, certificates and spans. Knows no call."""
