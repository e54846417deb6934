# What a guest runs when it goes on as a machine of its own, with nothing else of its system: reads a `Wake` from standard
# input (wake.rs), sets the clock, adds the randomness and lets the kernel draw its keys from it at once. A time of zero
# means something else: all that was written is put on the disks. `reseed.bin` is this, assembled: a test compares.
# Linux on x86-64; numbers of calls from asm/unistd_64.h, of requests from linux/random.h.
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
clock:  cmpq    $0, (%rbx)
        je      sync
        mov     $227, %eax              # clock_settime(CLOCK_REALTIME, seconds and nanoseconds)
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
        jmp     done
sync:   mov     $162, %eax              # sync
        syscall
done:   xor     %edi, %edi
        jmp     end
fail:   mov     $1, %edi
end:    mov     $60, %eax               # exit
        syscall
device: .asciz  "/dev/urandom"
