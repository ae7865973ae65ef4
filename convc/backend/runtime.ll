; The native runtime: runs a compiled program on one or several threads.
;
; A program is an array of 64-bit words. Word 0 is the number of steps, word 1 the scratch bytes of a
; thread; then each step has six words:
;   kernel address, first argument, number of arguments, tasks, 1 if parallel, 1 if a barrier follows
; The arguments are places in a run's table of addresses, which starts with that of the scratch.
;
; sync (per run), a cache line each:   0 arrived | 64 generation | 128 sleepers | 192 next task
; mailbox (per worker):   0 epoch | 64 sleepers on it | 128 done | 192 sleepers on it |
;   256 program | 264 arguments | 272 table | 280 sync | 288 thread | 296 threads | 304 stop

%timespec = type { i64, i64 }

declare i32 @clock_gettime(i32, ptr)

define internal i64 @nanoseconds() nounwind {
  %t = alloca %timespec
  %status = call i32 @clock_gettime(i32 1, ptr %t)
  %s = load i64, ptr %t
  %p = getelementptr i8, ptr %t, i64 8
  %ns = load i64, ptr %p
  %scaled = mul i64 %s, 1000000000
  %sum = add i64 %scaled, %ns
  ret i64 %sum
}

; Return once the word differs from %old: spin for a bounded time, then sleep.
define internal void @wait_change(ptr %word, i32 %old, ptr %sleepers) nounwind {
entry:
  %start = call i64 @nanoseconds()
  br label %spin
spin:
  %turn = phi i64 [ 0, %entry ], [ %next, %again ]
  %now = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %now, %old
  br i1 %same, label %pause, label %done
pause:
  call void @relax()
  %next = add i64 %turn, 1
  %low = and i64 %next, 63
  %look = icmp eq i64 %low, 0
  br i1 %look, label %clock, label %again
again:
  br label %spin
clock:
  %time = call i64 @nanoseconds()
  %spent = sub i64 %time, %start
  %more = icmp slt i64 %spent, SPIN_NANOSECONDS
  br i1 %more, label %again2, label %drowsy
again2:
  br label %again
drowsy:
  %before = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %check
check:
  %seen = load atomic i32, ptr %word seq_cst, align 4
  %still = icmp eq i32 %seen, %old
  br i1 %still, label %sleep, label %awake
sleep:
  call void @sleep_on(ptr %word, i32 %old)
  br label %check
awake:
  %after = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}

define internal void @publish(ptr %word, i32 %value, ptr %sleepers) nounwind {
  store atomic i32 %value, ptr %word seq_cst, align 4
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %count, 0
  br i1 %any, label %wake, label %done
wake:
  call void @wake_all(ptr %word)
  br label %done
done:
  ret void
}

; Nobody passes before all have arrived; the last one resets the task counter.
define internal void @barrier(ptr %sync, i64 %threads) nounwind {
  %generation = getelementptr i8, ptr %sync, i64 64
  %sleepers = getelementptr i8, ptr %sync, i64 128
  %counter = getelementptr i8, ptr %sync, i64 192
  %old = load atomic i32, ptr %generation acquire, align 4
  %before = atomicrmw add ptr %sync, i32 1 acq_rel
  %arrived = add i32 %before, 1
  %all = trunc i64 %threads to i32
  %last = icmp eq i32 %arrived, %all
  br i1 %last, label %release, label %wait
release:
  store atomic i32 0, ptr %sync monotonic, align 4
  store atomic i64 0, ptr %counter monotonic, align 8
  %new = add i32 %old, 1
  call void @publish(ptr %generation, i32 %new, ptr %sleepers)
  ret void
wait:
  call void @wait_change(ptr %generation, i32 %old, ptr %sleepers)
  ret void
}

; Take chunks of a parallel step's tasks until none is left.
define internal void @share(ptr %kernel, ptr %buffers, ptr %scratch, i64 %tasks, ptr %counter, i64 %threads) nounwind {
entry:
  %parts = mul i64 %threads, 8
  %whole = udiv i64 %tasks, %parts
  %some = icmp ugt i64 %whole, 0
  %chunk = select i1 %some, i64 %whole, i64 1
  br label %take
take:
  %begin = atomicrmw add ptr %counter, i64 %chunk monotonic
  %left = icmp slt i64 %begin, %tasks
  br i1 %left, label %work, label %done
work:
  %stop = add i64 %begin, %chunk
  %over = icmp sgt i64 %stop, %tasks
  %end = select i1 %over, i64 %tasks, i64 %stop
  call void %kernel(ptr %buffers, i64 %begin, i64 %end, ptr %scratch)
  br label %take
done:
  ret void
}

; One thread's part of a run.
define void @convc_run(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %thread, i64 %threads) nounwind {
entry:
  %buffers = alloca [MAXIMUM_ARGUMENTS x ptr], align 64
  %counter = getelementptr i8, ptr %sync, i64 192
  %steps = load i64, ptr %program
  %pstride = getelementptr i64, ptr %program, i64 1
  %stride = load i64, ptr %pstride
  %scratches = load ptr, ptr %table
  %mineoffset = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %scratches, i64 %mineoffset
  %first = getelementptr i64, ptr %program, i64 2
  %none = icmp eq i64 %steps, 0
  br i1 %none, label %finished, label %step
step:
  %number = phi i64 [ 0, %entry ], [ %following, %next ]
  %offset = mul i64 %number, 6
  %record = getelementptr i64, ptr %first, i64 %offset
  %kernel = load ptr, ptr %record
  %p1 = getelementptr i64, ptr %record, i64 1
  %begin = load i64, ptr %p1
  %p2 = getelementptr i64, ptr %record, i64 2
  %count = load i64, ptr %p2
  %p3 = getelementptr i64, ptr %record, i64 3
  %tasks = load i64, ptr %p3
  %p4 = getelementptr i64, ptr %record, i64 4
  %parallel = load i64, ptr %p4
  %p5 = getelementptr i64, ptr %record, i64 5
  %fence = load i64, ptr %p5
  br label %gather
gather:
  %i = phi i64 [ 0, %step ], [ %i1, %gather ]
  %where = add i64 %begin, %i
  %pslot = getelementptr i64, ptr %arguments, i64 %where
  %slot = load i64, ptr %pslot
  %paddress = getelementptr ptr, ptr %table, i64 %slot
  %address = load ptr, ptr %paddress
  %pbuffer = getelementptr ptr, ptr %buffers, i64 %i
  store ptr %address, ptr %pbuffer
  %i1 = add i64 %i, 1
  %gathered = icmp sge i64 %i1, %count
  br i1 %gathered, label %dispatch, label %gather
dispatch:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %all, label %together
all:
  call void %kernel(ptr %buffers, i64 0, i64 %tasks, ptr %scratch)
  br label %next
together:
  %shared = icmp ne i64 %parallel, 0
  br i1 %shared, label %split, label %single
split:
  call void @share(ptr %kernel, ptr %buffers, ptr %scratch, i64 %tasks, ptr %counter, i64 %threads)
  br label %meet
single:
  %mine = icmp eq i64 %thread, 0
  br i1 %mine, label %own, label %meet
own:
  call void %kernel(ptr %buffers, i64 0, i64 %tasks, ptr %scratch)
  br label %meet
meet:
  %fenced = icmp ne i64 %fence, 0
  br i1 %fenced, label %stand, label %next
stand:
  call void @barrier(ptr %sync, i64 %threads)
  br label %next
next:
  %following = add i64 %number, 1
  %ended = icmp eq i64 %following, %steps
  br i1 %ended, label %finished, label %step
finished:
  ret void
}

; The caller's side: hand the run to %threads - 1 workers, take part as thread 0, await the others.
define void @convc_launch(ptr %mailboxes, ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %threads) nounwind {
entry:
  %counter = getelementptr i8, ptr %sync, i64 192
  store atomic i64 0, ptr %counter seq_cst, align 8
  br label %post
post:
  %w = phi i64 [ 1, %entry ], [ %w1, %posted ]
  %more = icmp slt i64 %w, %threads
  br i1 %more, label %fill, label %work
fill:
  %index = sub i64 %w, 1
  %pbox = getelementptr ptr, ptr %mailboxes, i64 %index
  %box = load ptr, ptr %pbox
  %f0 = getelementptr i8, ptr %box, i64 256
  store ptr %program, ptr %f0
  %f1 = getelementptr i8, ptr %box, i64 264
  store ptr %arguments, ptr %f1
  %f2 = getelementptr i8, ptr %box, i64 272
  store ptr %table, ptr %f2
  %f3 = getelementptr i8, ptr %box, i64 280
  store ptr %sync, ptr %f3
  %f4 = getelementptr i8, ptr %box, i64 288
  store i64 %w, ptr %f4
  %f5 = getelementptr i8, ptr %box, i64 296
  store i64 %threads, ptr %f5
  %epoch = load atomic i32, ptr %box monotonic, align 4
  %new = add i32 %epoch, 1
  %sleepers = getelementptr i8, ptr %box, i64 64
  call void @publish(ptr %box, i32 %new, ptr %sleepers)
  br label %posted
posted:
  %w1 = add i64 %w, 1
  br label %post
work:
  call void @convc_run(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 0, i64 %threads)
  br label %join
join:
  %j = phi i64 [ 1, %work ], [ %j1, %joined ]
  %waiting = icmp slt i64 %j, %threads
  br i1 %waiting, label %await, label %finished
await:
  %jindex = sub i64 %j, 1
  %pjbox = getelementptr ptr, ptr %mailboxes, i64 %jindex
  %jbox = load ptr, ptr %pjbox
  %done = getelementptr i8, ptr %jbox, i64 128
  %dsleepers = getelementptr i8, ptr %jbox, i64 192
  %current = load atomic i32, ptr %jbox monotonic, align 4
  %previous = sub i32 %current, 1
  call void @wait_change(ptr %done, i32 %previous, ptr %dsleepers)
  br label %joined
joined:
  %j1 = add i64 %j, 1
  br label %join
finished:
  ret void
}

; A worker's life: wait for a run, take part, say so; until told to stop.
define void @convc_worker(ptr %box) nounwind {
entry:
  %sleepers = getelementptr i8, ptr %box, i64 64
  %done = getelementptr i8, ptr %box, i64 128
  %dsleepers = getelementptr i8, ptr %box, i64 192
  br label %idle
idle:
  %last = load atomic i32, ptr %done monotonic, align 4
  call void @wait_change(ptr %box, i32 %last, ptr %sleepers)
  %f6 = getelementptr i8, ptr %box, i64 304
  %stop = load atomic i64, ptr %f6 acquire, align 8
  %quit = icmp ne i64 %stop, 0
  br i1 %quit, label %leave, label %work
work:
  %f0 = getelementptr i8, ptr %box, i64 256
  %program = load ptr, ptr %f0
  %f1 = getelementptr i8, ptr %box, i64 264
  %arguments = load ptr, ptr %f1
  %f2 = getelementptr i8, ptr %box, i64 272
  %table = load ptr, ptr %f2
  %f3 = getelementptr i8, ptr %box, i64 280
  %sync = load ptr, ptr %f3
  %f4 = getelementptr i8, ptr %box, i64 288
  %thread = load i64, ptr %f4
  %f5 = getelementptr i8, ptr %box, i64 296
  %threads = load i64, ptr %f5
  call void @convc_run(ptr %program, ptr %arguments, ptr %table, ptr %sync, i64 %thread, i64 %threads)
  %epoch = load atomic i32, ptr %box monotonic, align 4
  call void @publish(ptr %done, i32 %epoch, ptr %dsleepers)
  br label %idle
leave:
  ret void
}
