"""Losses: functions of arrays that return a scalar or an Average, in at least float32."""
