/* What tcpserver executes for each connection: echo standard input. */
#include "echo.h"

int main(void)
{
    echo_blocking(0, 1);
}
