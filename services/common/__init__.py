"""What every service needs: messages, subjects, the bus, options, errors, lifecycle, telemetry. No torch."""
