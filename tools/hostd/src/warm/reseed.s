# What a guest runs first when it goes on as a machine of its own, with nothing else on its system: reads a `Wake` of
# channel.rs from standard input, sets the clock, adds the randomness and lets the kernel draw its keys from it at once.
# `reseed.bin` is this, assembled: a test compares. Linux on x86-64; numbers of calls from asm/unistd_64.h, of requests
# from linux/random.h.
        .globl _start
_start: sub     $88, %rsp
        mov     %rsp, %rbx
        xor     %ebp, %ebp
read:   mov     $88, %edx               # read(0, what is left of it)
        sub     %ebp, %edx
        jz      clock
        xor     %eax, %eax
        xor     %edi, %edi
        lea     (%rbx,%rbp), %rsi
        syscall
        test    %rax, %rax
        jle     fail
        add     %eax, %ebp
        jmp     read
clock:  mov     $227, %eax              # clock_settime(CLOCK_REALTIME, seconds and nanoseconds)
        xor     %edi, %edi
        mov     %rbx, %rsi
        syscall
        test    %eax, %eax
        jnz     fail
        mov     $2, %eax                # open("/dev/urandom", O_RDONLY)
        lea     device(%rip), %rdi
        xor     %esi, %esi
        syscall
        test    %eax, %eax
        js      fail
        mov     %eax, %r12d
        mov     $16, %eax
        mov     %r12d, %edi
        mov     $0x40085203, %esi       # ioctl(RNDADDENTROPY, struct rand_pool_info)
        lea     16(%rbx), %rdx
        syscall
        test    %eax, %eax
        jnz     fail
        mov     $16, %eax
        mov     %r12d, %edi
        mov     $0x5207, %esi           # ioctl(RNDRESEEDCRNG)
        syscall
        test    %eax, %eax
        jnz     fail
        xor     %edi, %edi
        jmp     end
fail:   mov     $1, %edi
end:    mov     $60, %eax               # exit
        syscall
device: .asciz  "/dev/urandom"
