# The beginning of remountctl: see ahead.rs. Numbers are those of x86-64 (syscall(2), socket(2)).

.section .rodata.remount_ahead, "a"
.Loption:  .asciz "--socket"
.Lro:      .asciz "ro"
.Lrw:      .asciz "rw"
.Ltoggle:  .asciz "toggle"
.Lbefore:  .asciz "{\"op\":\"set\",\"targets\":[\""
.Lbetween: .asciz "\"],\"mode\":\""
.Lafter:   .asciz "\"}\n"

# The connection on which the request has been sent; 0 for none.
.section .bss.remount_ahead, "aw", @nobits
.balign 4
.globl remount_ahead_sent
.hidden remount_ahead_sent
remount_ahead_sent: .zero 4

.section .text.remount_ahead, "ax"

# What the kernel jumps to. rsp points at the number of arguments, rdx and it are for the C
# library's own entry (System V ABI, AMD64, 3.4.1). Fails without a word and never waits: what
# could not be sent is sent later, by who has the words.
.globl remount_ahead_start
.hidden remount_ahead_start
remount_ahead_start:
    mov rbx, rsp
    mov r12, rdx
    sub rsp, 256
    mov rdi, rbx
    mov rsi, rsp
    call remount_ahead_compose
    test eax, eax
    jz .Lstart
    mov r14, rax                    # how long the address is
    mov r15, rdx                    # how long the request is

    mov eax, 41                     # socket
    mov edi, 1                      # AF_UNIX
    mov esi, 0x80801                # SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
    xor edx, edx
    syscall
    test eax, eax
    js .Lstart
    mov r13d, eax
    cmp eax, 2                      # a standard descriptor was closed: not this one's place
    jbe .Lclose

    mov eax, 42                     # connect
    mov edi, r13d
    mov rsi, rsp
    mov rdx, r14
    syscall
    test eax, eax
    jnz .Lclose

    mov eax, 72                     # fcntl: from here on it waits
    mov edi, r13d
    mov esi, 4                      # F_SETFL
    mov edx, 2                      # O_RDWR
    syscall
    test eax, eax
    jnz .Lclose

    mov eax, 44                     # sendto
    mov edi, r13d
    lea rsi, [rsp + 112]
    mov rdx, r15
    mov r10d, 0x4040                # MSG_NOSIGNAL | MSG_DONTWAIT
    xor r8d, r8d
    xor r9d, r9d
    syscall
    cmp rax, r15                    # less has no end of line, and is no request
    jne .Lclose
    mov [rip + remount_ahead_sent], r13d
    jmp .Lstart

.Lclose:
    mov eax, 3                      # close
    mov edi, r13d
    syscall
.Lstart:
    mov rsp, rbx
    mov rdx, r12
    jmp _start

# rdi: what a process begins with, the number of arguments and a pointer to each.
# rsi: room for a sockaddr_un of 110 bytes, and 112 bytes on for a request of 128.
# rax, rdx: how long these are, or rax 0 if the line is not --socket PATH ro|rw|toggle NAME.
.globl remount_ahead_compose
.hidden remount_ahead_compose
remount_ahead_compose:
    mov r8, rdi
    mov r9, rsi
    cmp qword ptr [r8], 5
    jne .Lno
    mov rdi, [r8 + 16]
    lea rsi, [rip + .Loption]
    call .Lsame
    jne .Lno
    mov rdi, [r8 + 32]
    lea rsi, [rip + .Lro]
    call .Lsame
    je .Lname
    mov rdi, [r8 + 32]
    lea rsi, [rip + .Lrw]
    call .Lsame
    je .Lname
    mov rdi, [r8 + 32]
    lea rsi, [rip + .Ltoggle]
    call .Lsame
    jne .Lno

.Lname:                             # [a-z0-9_-]{1,64}, and no '-' in front
    mov rsi, [r8 + 40]
    cmp byte ptr [rsi], '-'
    je .Lno
    xor ecx, ecx
.Lletter:
    movzx eax, byte ptr [rsi + rcx]
    test eax, eax
    jz .Lnamed
    cmp ecx, 64
    je .Lno
    inc ecx
    cmp eax, '-'
    je .Lletter
    cmp eax, '_'
    je .Lletter
    lea edx, [rax - 'a']
    cmp edx, 'z' - 'a'
    jbe .Lletter
    lea edx, [rax - '0']
    cmp edx, '9' - '0'
    jbe .Lletter
    jmp .Lno
.Lnamed:
    test ecx, ecx
    jz .Lno

    mov rsi, [r8 + 24]              # the path: an option's value does not begin like one
    cmp byte ptr [rsi], '-'
    je .Lno
    mov rdi, r9
    mov word ptr [rdi], 1           # AF_UNIX
    add rdi, 2
    lea rdx, [rdi + 107]
.Lpath:
    lodsb
    test al, al
    jz .Lpathed
    cmp rdi, rdx
    je .Lno
    stosb
    jmp .Lpath
.Lpathed:
    stosb
    mov rcx, rdi
    sub rcx, r9
    cmp ecx, 3                      # an empty one
    je .Lno

    lea rdi, [r9 + 112]
    lea rsi, [rip + .Lbefore]
    call .Lput
    mov rsi, [r8 + 40]
    call .Lput
    lea rsi, [rip + .Lbetween]
    call .Lput
    mov rsi, [r8 + 32]
    call .Lput
    lea rsi, [rip + .Lafter]
    call .Lput
    lea rdx, [rdi - 112]
    sub rdx, r9
    mov rax, rcx
    ret
.Lno:
    xor eax, eax
    ret

# Whether the strings at rdi and rsi are the same, as the zero flag; changes both, and al.
.Lsame:
    mov al, [rdi]
    cmp al, [rsi]
    jne .Ldiffer
    inc rdi
    inc rsi
    test al, al
    jnz .Lsame
.Ldiffer:
    ret

# Copies the string at rsi, without its end, to rdi, which is then behind it; changes rsi, al.
.Lput:
    lodsb
    test al, al
    jz .Lend
    stosb
    jmp .Lput
.Lend:
    ret
