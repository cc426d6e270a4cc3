// Every check; returns the number of failures.
#pragma once

int check_exact(bool quick);
int check_reuse(bool quick);
